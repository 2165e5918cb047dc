"""Real data that scikit-learn carries, for simulations and tutorials."""
