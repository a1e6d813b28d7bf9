/* A number of 16 bits, 1 + 5 + 10, as one of 32, and back: to the nearest, ties to even. */
static inline float f32_of_f16(uint16_t half) {
  const uint32_t sign = (uint32_t)(half & 0x8000u) << 16, rest = half & 0x7FFFu;
  if (rest >= 0x7C00u) return f32_of_u32_bits(sign | 0x7F800000u | (rest & 0x3FFu) << 13); /* infinite, or no number */
  if (rest >= 0x400u) return f32_of_u32_bits(sign | ((rest << 13) + 0x38000000u));
  return f32_of_u32_bits(sign | u32_of_f32_bits((float)rest * 5.9604644775390625e-8f)); /* in steps of 2**-24 */
}

static inline uint16_t f16_of_f32(float value) {
  const uint32_t bits = u32_of_f32_bits(value), sign = bits >> 16 & 0x8000u, rest = bits & 0x7FFFFFFFu;
  if (rest > 0x7F800000u) return (uint16_t)(sign | 0x7E00u | (rest >> 13 & 0x3FFu));
  if (rest >= 0x477FF000u) return (uint16_t)(sign | 0x7C00u);
  if (rest >= 0x38800000u) return (uint16_t)(sign | ((rest + 0xFFFu + (rest >> 13 & 1u)) - 0x38000000u) >> 13);
  return (uint16_t)(sign | (u32_of_f32_bits(f32_of_u32_bits(rest) + 0.5f) - 0x3F000000u)); /* the sum rounds to steps of 2**-24 */
}
