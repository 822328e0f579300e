"""SHAPO: sharpness-aware policy optimization for safe exploration."""
