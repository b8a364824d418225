"""Everything that knows ComfyUI's own classes (``comfy.*``). A new host would be one more folder like
this."""
