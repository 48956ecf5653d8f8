"""`mcq transcode`: a tree of images to `.mcq` files of the same tree, or back; on processes here or on Ray.

A manifest says what was planned and what came of it.  A run that was stopped, killed or lost a machine is repeated with
the same command: finished files are left alone, the rest is done.  A local file is written whole or not at all, a
remote one as its file system does it; doing one twice changes nothing.
"""
