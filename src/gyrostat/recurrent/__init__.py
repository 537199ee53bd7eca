"""Models of time: recurrent layers with the contract of ``torch.nn.LSTM``, one file per method."""
