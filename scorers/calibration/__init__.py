"""Answers with known worth, and attacks on judges: what `em calibrate` measures a judge with."""
