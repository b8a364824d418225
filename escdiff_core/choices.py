"""What recipes, attribute files and mixes may say, for whoever wants the names without what is heavy behind
them."""

REACHES = ("own", "all")                        # which blocks see a token
LAYOUTS = ("one", "layers", "stages", "layers+stages")   # of a token's vectors: see unet.tokens
FORMS = ("full", "lora", "offsets", "two-loras")   # of what trains: see learning.forms
MIDDLES = ("shape", "appearance", "none")       # whose the middle block is in a mix
# of what both changed: each output channel is one's alone, or both changes add
OVERLAPS = ("divide", "add")
STAGES = 10                                     # tenths of the schedule
USUAL_GUIDANCE = 6.0      # of Stable Diffusion 1.x; the pocket's is pocket.config.GUIDANCE
