"""The descriptor pool of Penstock's own messages.

tritonclient registers messages with the same full names in protobuf's default pool, and one pool
refuses two definitions of a name. A pool of our own lets both live in one process.
"""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
