"""What runs a model. Each backend turns a batch of numpy arrays into another."""
