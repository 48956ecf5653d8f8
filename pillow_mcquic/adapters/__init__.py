"""`.mcq` under the habits of other libraries: each module is a thin layer over `pillow_mcquic.codec`."""
