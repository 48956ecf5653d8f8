"""One model on one device: pixels -> codes -> bytes, and back.

Everything here but `forks` imports torch, so `codec` imports it when the first picture is encoded or decoded.
"""
