"""MC-SJD for ComfyUI: registers the nodes where ComfyUI is there, and imports cleanly where it is not."""

from importlib.util import find_spec

WEB_DIRECTORY = "./web"  # the script that shows texts in nodes, and the help pages

# A test runner imports this file without a package; relative imports cannot work then, and are not wanted.
if __package__ and find_spec("comfy_api") is not None:
    from .nodes.entry import comfy_entrypoint as comfy_entrypoint
