"""int8: arrays as int8 values with float32 scales (`quantised`), and what is computed of them (`arithmetic`)."""
