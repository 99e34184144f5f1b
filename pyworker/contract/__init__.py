"""What an author wrote, checked when the worker is made. Each fault is a `ConfigError` that names the file,
the class, and what to write.

places    where in the author's files something is
payloads  payload classes
handlers  handlers: path, method, options, what they return
backends  the model server's URL and the phrases of its log
paths     the rules of the app: two views on one path, methods
"""
