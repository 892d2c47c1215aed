"""Other trainers: each module puts a `Distillation` into one of them."""
