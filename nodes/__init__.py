"""The ComfyUI face: thin nodes that read inputs, call the core and return. Only ``host`` touches
``comfy.*``."""
