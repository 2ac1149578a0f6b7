"""Tests of rules: short made-up runs, and which alerts they must raise."""
