"""What learning and mixing share of the UNet: blocks, tokens, routes, copies and words."""
