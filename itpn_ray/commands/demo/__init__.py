"""`itpn-ray demo`: train, tune and detect on images that come with the package."""
