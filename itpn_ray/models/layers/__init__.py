"""The blocks and position codes that trunks, pyramids and decoders are made of."""
