"""Slice benchmark: which methods find the subgroups a classifier fails on, and which claim what is not there?"""
