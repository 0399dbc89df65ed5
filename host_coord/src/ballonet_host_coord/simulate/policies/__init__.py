"""The sharing rules under comparison: other systems' rules, re-implemented from a description of what they do."""
