"""`python -m pyworker.new my_llm`: a worker of one's own, to begin with.

scaffold  what is written for which engine, and where
__main__  the command
"""
