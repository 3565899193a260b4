"""Suites: many tasks on many data sets in one go, of one encoder or several, in tables beside published numbers.

page.py what a suite asks for; subject.py who is measured; measure.py carries out, keeps and goes on; fingerprints.py
what was measured on; tables.py beside the paper's rows; comparison.py encoders side by side, paired by picture.
"""
