"""The worker of templates that run ComfyUI behind the service's wrapper.

Its folder's name is no Python name: import it by `importlib`, or run `python -m workers.comfyui-json.server`.
"""
