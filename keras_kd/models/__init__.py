"""What is done to any `keras.Model`: copied, compared, probed, tapped, told apart."""
