"""ComfyUI's worker: its own API, without a wrapper.

data_types  what clients send
server      the backend and the routes
settings    the worker's own variables
workflows   workflows as JSON: the shape, random integers
templates   workflows whose inputs clients fill by name
benchmark   the workflow that is measured
workload    how much work a workflow is
execution   one prompt, from its submission to its end
websocket   ComfyUI's events, in bounded memory
history     what ComfyUI's history tells of a prompt
inputs      files that come with a workflow
outputs     the files of a prompt
errors      ComfyUI's errors as responses
"""
