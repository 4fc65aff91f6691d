"""How good mixed images, their labels and the class maps are, measured against true boxes, parts and masks."""
