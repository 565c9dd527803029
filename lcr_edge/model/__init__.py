"""The LCR network in PyTorch: embed (pixels to tokens), layer (Cross RWKV gate and LSTM cell), network (all of it)."""
