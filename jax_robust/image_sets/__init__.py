"""What sets of images are like beside one another, as functions of their features."""
