"""What the examples with a ViT and a ResNet share."""
