"""Side-by-side measurements. Each prints ratios against a baseline taken in the same run."""
