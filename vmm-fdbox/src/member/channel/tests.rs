//! Lines, descriptors and deadlines over a real socket.
