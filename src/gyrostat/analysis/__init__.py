"""What a dynamical system does: of matrices, of a callable, of a trained model."""
