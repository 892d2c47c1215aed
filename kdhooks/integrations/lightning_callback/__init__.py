"""What the callbacks for ``lightning`` and ``pytorch_lightning`` are made of; no module here imports either package."""
