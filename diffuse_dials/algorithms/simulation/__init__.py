"""Stills of a crystal with known diffuse scattering: structure, disorder, detector, Bragg spots, counting noise."""
