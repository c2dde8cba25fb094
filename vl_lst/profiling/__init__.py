"""What training costs: bytes saved for backward, exact on any device."""
