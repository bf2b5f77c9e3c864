"""Whole networks: classifier, autoencoder, distillation, backbone; built by name."""
