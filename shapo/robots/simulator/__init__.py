"""The differentiable simulator: the robots' laws of motion as formulas, compiled, and their gradients."""
