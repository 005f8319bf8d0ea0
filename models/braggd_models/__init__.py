"""Simulation, training, export and scoring of the networks that braggd runs."""
