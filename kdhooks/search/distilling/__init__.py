"""How a candidate is distilled: block by block, then as a whole, each stage by a `Distillation` of its own."""
