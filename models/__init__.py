"""What the sky is made of: emission laws, networks, training, artefacts, synthetic skies."""
