"""The parts of imagenet_resnet18.py and imagenet_data.py."""
