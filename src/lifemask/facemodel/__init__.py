"""Parametric face models: parameters to vertices, landmarks and regions."""
