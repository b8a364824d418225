"""What recipes and attribute files may say, for whoever wants the names without what is heavy behind them."""

REACHES = ("own", "all")                        # which blocks see a token
LAYOUTS = ("one", "layers", "stages", "layers+stages")   # of a token's vectors: see method.tokens
FORMS = ("full", "lora", "offsets", "two-loras")   # of what trains: see method.forms
STAGES = 10                                     # tenths of the schedule
USUAL_GUIDANCE = 6.0      # of Stable Diffusion 1.x; the pocket's is pocket.config.GUIDANCE
