// GoldenTrack, in physical units; a state a call, or many; no state between calls, no allocation.
// True is 1 and false is 0. A state with NaN or an infinity is answered NaN, -1 where the result is a whole number.
// Compile with -O3 -march=native, or the like.
#pragma once
#ifdef __FAST_MATH__
#error "compile without -ffast-math (-fno-math-errno is safe): it removes NaN and breaks exponentials"
#endif
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace golden {
inline namespace rae88f36755f1 {  // two headers of one name may be used in one process

inline constexpr std::size_t constant_bytes = 672, work_numbers = 113;

// Names, units and ranges of all numbers, and where this file comes from.
inline constexpr char about[] = R"surrogate({"origin": {}, "tolerance": 1e-05, "entry_points": {"forward": {"inputs": {"state": {"type": "float32", "shape": [7], "columns": [{"name": "x", "unit": "mm", "lowest": null, "highest": null}, {"name": "y", "unit": "mm", "lowest": null, "highest": null}, {"name": "tx", "unit": "1", "lowest": null, "highest": null}, {"name": "ty", "unit": "1", "lowest": null, "highest": null}, {"name": "q_over_p", "unit": "1/GeV", "lowest": null, "highest": null}, {"name": "z0", "unit": "mm", "lowest": null, "highest": null}, {"name": "dz", "unit": "mm", "lowest": null, "highest": null}]}}, "outputs": {"extrapolated": {"type": "float32", "shape": [4], "columns": [{"name": "x_end", "unit": "mm", "lowest": null, "highest": null}, {"name": "y_end", "unit": "mm", "lowest": null, "highest": null}, {"name": "tx_end", "unit": "1", "lowest": null, "highest": null}, {"name": "ty_end", "unit": "1", "lowest": null, "highest": null}]}}}}})surrogate";

namespace detail {
constexpr const float* no_bias = nullptr;

template <int Inputs, int Outputs, typename T, typename W, typename B>
inline void dense(const T* x, const W* weight, const B* bias, T* y) {
  for (int k = 0; k < Outputs; ++k) y[k] = bias ? T(bias[k]) : T(0);
  int j = 0;
  for (; j + 2 <= Inputs; j += 2, weight += 2 * Outputs) {
    const T v = x[j], w = x[j + 1];
    for (int k = 0; k < Outputs; ++k) y[k] += v * T(weight[k]) + w * T(weight[Outputs + k]);
  }
  for (; j < Inputs; ++j, weight += Outputs)
    for (int k = 0; k < Outputs; ++k) y[k] += x[j] * T(weight[k]);
}

template <int Inputs, int Outputs, typename T, typename W, typename B>
inline void project(const T* x, const W* weight, const B* bias, T* y) {
  for (int o = 0; o < Outputs; ++o) {
    T lane[16] = {}, sum = bias ? T(bias[o]) : T(0);
    int j = 0;
    for (; j + 16 <= Inputs; j += 16)
      for (int k = 0; k < 16; ++k) lane[k] += x[j + k] * T(weight[o * Inputs + j + k]);
    for (; j < Inputs; ++j) sum += x[j] * T(weight[o * Inputs + j]);
    for (int k = 0; k < 16; ++k) sum += lane[k];
    y[o] = sum;
  }
}

template <int N, typename T>
inline T power(T x) {
  if constexpr (N == 1) return x;
  else return N % 2 ? x * power<N - 1>(x) : power<N / 2>(x) * power<N / 2>(x);
}

// The place in a table of this length: negative ones count from the end, NaN and what lies outside become one inside.
template <typename T>
inline int inside(T x, int length) {
  if (x < 0) x += length;
  return x >= 0 ? x < length ? int(x) : length - 1 : 0;
}

inline double exponential(double x) { return std::exp(x); }
inline float exponential(float x) {  // between -87 and 88; relative error 1e-7
  x = x > 88.0f ? 88.0f : x < -87.0f ? -87.0f : x;
  const float shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  std::uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << 23) + 0x3f800000u;
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

template <typename T> inline T sigmoid(T x) { return T(1) / (T(1) + exponential(-x)); }
template <typename T> inline T softplus(T x) { return (x > 0 ? x : T(0)) + std::log1p(std::exp(-std::abs(x))); }
inline double tanh(double x) { return std::tanh(x); }
inline float tanh(float x) {
  const float s = x * x, large = 1.0f - 2.0f / (1.0f + exponential(2.0f * (x < 0 ? -x : x)));
  const float small = x + x * s * ((((-5.70498872745e-3f * s + 2.06390887954e-2f) * s - 5.37397155531e-2f) * s + 1.33314422036e-1f) * s - 3.33332819422e-1f);
  return s < 0.390625f ? small : x < 0 ? -large : large;
}

// What differs between one row and some rows in the lanes of a vector.
template <typename T> inline T choose(T c, T a, T b) { return c != 0 ? a : b; }
template <typename T> inline T at_least(T x, T low) { return x < low ? low : x; }
template <typename T> inline T at_most(T x, T high) { return high < x ? high : x; }
template <typename T> inline T is_less(T a, T b) { return T(a < b); }
template <typename T> inline T is_at_most(T a, T b) { return T(a <= b); }
template <typename T> inline T is_equal(T a, T b) { return T(a == b); }
template <typename T> inline bool any(T x) { return x != 0; }
namespace math {
#define ONE(name) template <typename T> inline T name(T x) { return std::name(x); }
ONE(abs) ONE(sqrt) ONE(exp) ONE(log) ONE(log1p) ONE(expm1) ONE(erf) ONE(sin) ONE(cos) ONE(tan) ONE(asin) ONE(acos) ONE(atan)
ONE(sinh) ONE(cosh) ONE(asinh) ONE(floor) ONE(ceil) ONE(nearbyint) ONE(trunc)
#undef ONE
template <typename T> inline T pow(T x, T y) { return std::pow(x, y); }
}  // namespace math

#if defined(__GNUC__)
// Some rows at once, one in each lane of a vector: what the functions of many rows compute with.
template <typename S>
struct Lanes {
  typedef S V __attribute__((vector_size(64)));
  static constexpr int count = 64 / sizeof(S);
  V v;
  Lanes() = default;
  Lanes(S x) : v(x - V{}) {}
  explicit Lanes(const V& x) : v(x) {}
  friend inline Lanes operator+(const Lanes& a, const Lanes& b) { return Lanes(a.v + b.v); }
  friend inline Lanes operator-(const Lanes& a, const Lanes& b) { return Lanes(a.v - b.v); }
  friend inline Lanes operator*(const Lanes& a, const Lanes& b) { return Lanes(a.v * b.v); }
  friend inline Lanes operator/(const Lanes& a, const Lanes& b) { return Lanes(a.v / b.v); }
  friend inline Lanes operator-(const Lanes& a) { return Lanes(-a.v); }
  Lanes& operator+=(const Lanes& b) { v += b.v; return *this; }
  Lanes& operator*=(const Lanes& b) { v *= b.v; return *this; }
  Lanes& operator/=(const Lanes& b) { v /= b.v; return *this; }
};
template <typename S> using Vector = typename Lanes<S>::V;
typedef std::int32_t Whole __attribute__((vector_size(64)));

template <typename S> inline Lanes<S> choose(const Lanes<S>& c, const Lanes<S>& a, const Lanes<S>& b) { return Lanes<S>(c.v != 0 ? a.v : b.v); }
template <typename S> inline Lanes<S> at_least(const Lanes<S>& x, const Lanes<S>& low) { return Lanes<S>(x.v < low.v ? low.v : x.v); }
template <typename S> inline Lanes<S> at_most(const Lanes<S>& x, const Lanes<S>& high) { return Lanes<S>(high.v < x.v ? high.v : x.v); }
template <typename S> inline Lanes<S> is_less(const Lanes<S>& a, const Lanes<S>& b) { return Lanes<S>(a.v < b.v ? Vector<S>{} + 1 : Vector<S>{}); }
template <typename S> inline Lanes<S> is_at_most(const Lanes<S>& a, const Lanes<S>& b) { return Lanes<S>(a.v <= b.v ? Vector<S>{} + 1 : Vector<S>{}); }
template <typename S> inline Lanes<S> is_equal(const Lanes<S>& a, const Lanes<S>& b) { return Lanes<S>(a.v == b.v ? Vector<S>{} + 1 : Vector<S>{}); }
template <typename S> inline bool any(const Lanes<S>& x) {
  bool found = false;
  for (int k = 0; k < Lanes<S>::count; ++k) found |= x.v[k] != 0;
  return found;
}

template <typename S, typename F>
inline Lanes<S> each(const Lanes<S>& x, F f) {
  S number[Lanes<S>::count];
  std::memcpy(number, &x.v, sizeof number);
  for (int k = 0; k < Lanes<S>::count; ++k) number[k] = f(number[k]);
  Lanes<S> y;
  std::memcpy(&y.v, number, sizeof number);
  return y;
}


inline Lanes<double> exponential(const Lanes<double>& x) { return each(x, [](double y) { return std::exp(y); }); }
inline Lanes<float> exponential(const Lanes<float>& x) { return each(x, [](float y) { return exponential(y); }); }

namespace math {
#define EACH(name) template <typename S> inline Lanes<S> name(const Lanes<S>& x) { return each(x, [](S y) { return S(std::name(y)); }); }
EACH(abs) EACH(sqrt) EACH(erf) EACH(sin) EACH(cos) EACH(tan) EACH(asin) EACH(acos) EACH(atan) EACH(sinh) EACH(cosh)
EACH(floor) EACH(ceil) EACH(nearbyint) EACH(trunc)
#undef EACH
template <typename S> inline Lanes<S> pow(const Lanes<S>& x, const Lanes<S>& y) {
  Lanes<S> z;
  for (int k = 0; k < Lanes<S>::count; ++k) z.v[k] = std::pow(x.v[k], y.v[k]);
  return z;
}
inline Lanes<double> exp(const Lanes<double>& x) { return exponential(x); }
inline Lanes<double> log(const Lanes<double>& x) { return each(x, [](double y) { return std::log(y); }); }
inline Lanes<double> log1p(const Lanes<double>& x) { return each(x, [](double y) { return std::log1p(y); }); }
inline Lanes<double> expm1(const Lanes<double>& x) { return each(x, [](double y) { return std::expm1(y); }); }
inline Lanes<double> asinh(const Lanes<double>& x) { return each(x, [](double y) { return std::asinh(y); }); }

inline Lanes<float> exp(const Lanes<float>& x) {
  const Vector<float> found = exponential(x).v, none = {};
  return Lanes<float>(x.v > 88.0f ? none + INFINITY : x.v < -87.0f ? none : found);
}

// Natural logarithm by the polynomial of S. Moshier's Cephes (1989); relative error 1e-7.
inline Lanes<float> log(const Lanes<float>& x) {
  const Vector<float> none = {};
  const Whole tiny = x.v < 1.17549435e-38f;
  const Vector<float> y = tiny ? x.v * 8388608.0f : x.v;
  Whole bits, power;
  std::memcpy(&bits, &y, sizeof bits);
  power = ((bits >> 23) & 255) - 127 + (tiny & -23);
  bits = (bits & 0x007fffff) | 0x3f800000;
  Vector<float> m;
  std::memcpy(&m, &bits, sizeof m);
  const Whole large = m > 1.41421356f;
  m = (large ? 0.5f * m : m) - 1.0f;
  power -= large;
  const Vector<float> n = __builtin_convertvector(power, Vector<float>), z = m * m;
  Vector<float> p = 7.0376836292e-2f * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  p = p * m * z - 2.12194440e-4f * n - 0.5f * z;
  const Vector<float> found = m + p + 0.693359375f * n;
  const Vector<float> edge = x.v == 0.0f ? none - INFINITY : x.v > 0.0f ? x.v : none + NAN;
  return Lanes<float>(x.v > 0.0f ? (x.v <= 3.4028234e38f ? found : edge) : edge);
}

inline Lanes<float> log1p(const Lanes<float>& x) {  // the rounding of 1 + x is taken back
  const Vector<float> u = 1.0f + x.v, found = log(Lanes<float>(u)).v;
  return Lanes<float>(u == 1.0f ? x.v : u > 1e30f ? found : u <= 0.0f ? found : found * x.v / (u - 1.0f));
}

inline Lanes<float> expm1(const Lanes<float>& x) {
  const Vector<float> u = exp(x).v, less = u - 1.0f;
  return Lanes<float>(u == 1.0f ? x.v : x.v < -17.0f ? less : x.v > 80.0f ? less : less * x.v / log(Lanes<float>(u)).v);
}

inline Lanes<float> asinh(const Lanes<float>& x) {
  const Vector<float> size = abs(x).v, square = size * size;
  const Vector<float> found = log1p(Lanes<float>(size + square / (1.0f + sqrt(Lanes<float>(square + 1.0f)).v))).v;
  const Vector<float> y = size > 1e18f ? log(Lanes<float>(size)).v + 0.69314718f : found;
  return Lanes<float>(x.v < 0.0f ? -y : x.v == 0.0f ? x.v : y);
}
}  // namespace math

template <typename S> inline Lanes<S> softplus(const Lanes<S>& x) { return choose(is_less(Lanes<S>(0), x), x, Lanes<S>(0)) + math::log1p(math::exp(-math::abs(x))); }
inline Lanes<double> tanh(const Lanes<double>& x) { return each(x, [](double y) { return std::tanh(y); }); }
inline Lanes<float> tanh(const Lanes<float>& x) { return each(x, [](float y) { return tanh(y); }); }


// Outputs from `o` on, `Block` at a time, their sums in registers; input j and output o meet in weight[j * J + o * O].
template <int Inputs, int Outputs, int J, int O, int Block, typename S, typename W, typename B>
inline int lane_product(int o, const Lanes<S>* x, const W* weight, const B* bias, Lanes<S>* y) {
  for (; o + Block <= Outputs; o += Block) {
    Vector<S> sum[Block];
    for (int k = 0; k < Block; ++k) sum[k] = (bias ? S(bias[o + k]) : S(0)) - Vector<S>{};
    for (int j = 0; j < Inputs; ++j)
      for (int k = 0; k < Block; ++k) sum[k] += x[j].v * S(weight[j * J + (o + k) * O]);
    for (int k = 0; k < Block; ++k) y[o + k].v = sum[k];
  }
  return o;
}
template <int Inputs, int Outputs, int J, int O, typename S, typename W, typename B>
inline void lane_products(const Lanes<S>* x, const W* weight, const B* bias, Lanes<S>* y) {
#ifdef __AVX512F__
  int o = lane_product<Inputs, Outputs, J, O, 16>(0, x, weight, bias, y);
  o = lane_product<Inputs, Outputs, J, O, 4>(o, x, weight, bias, y);
#else
  int o = lane_product<Inputs, Outputs, J, O, 3>(0, x, weight, bias, y);
#endif
  lane_product<Inputs, Outputs, J, O, 1>(o, x, weight, bias, y);
}
template <int Inputs, int Outputs, typename S, typename W, typename B>
inline void dense(const Lanes<S>* x, const W* weight, const B* bias, Lanes<S>* y) { lane_products<Inputs, Outputs, Outputs, 1>(x, weight, bias, y); }
template <int Inputs, int Outputs, typename S, typename W, typename B>
inline void project(const Lanes<S>* x, const W* weight, const B* bias, Lanes<S>* y) { lane_products<Inputs, Outputs, 1, Inputs>(x, weight, bias, y); }

// Rows in blocks of as many as there are lanes; the last block repeats its last row.
template <std::size_t Inputs, std::size_t Outputs, typename T, typename F>
inline void in_blocks(const T* in, T* out, std::size_t rows, F evaluate) {
  constexpr std::size_t count = Lanes<T>::count;
  Lanes<T> x[Inputs], y[Outputs];
  for (std::size_t r = 0; r < rows; r += count) {
    for (std::size_t k = 0; k < count; ++k) {
      const T* row = in + (r + k < rows ? r + k : rows - 1) * Inputs;
      for (std::size_t c = 0; c < Inputs; ++c) x[c].v[k] = row[c];
    }
    evaluate(x, y);
    for (std::size_t k = 0; k < count && r + k < rows; ++k)
      for (std::size_t c = 0; c < Outputs; ++c) out[(r + k) * Outputs + c] = y[c].v[k];
  }
}
#else
template <std::size_t Inputs, std::size_t Outputs, typename T, typename F>
inline void in_blocks(const T* in, T* out, std::size_t rows, F evaluate) {
  for (std::size_t r = 0; r < rows; ++r) evaluate(in + r * Inputs, out + r * Outputs);
}
#endif

inline constexpr float typical_0_8[7] = {
    0x0.0p+0f, 0x1.f400000000000p+7f, 0x0.0p+0f, 0x1.3333340000000p-3f, 0x0.0p+0f, 0x1.4d20000000000p+11f, 0x1.4290000000000p+12f};
inline constexpr float module_scale_16[5] = {
    0x1.5400000000000p+7f, 0x1.2200000000000p+7f, 0x1.645a1c0000000p-4f, 0x1.60418a0000000p-4f, 0x1.0a3d700000000p-3f};
inline constexpr float linear_weight_18[40] = {
    0x0.0p+0f, 0x1.98d34e0000000p-2f, -0x1.ec3c4a0000000p-2f, 0x1.6facfe0000000p-3f, 0x1.0ee3ee0000000p-2f, -0x1.fdff0c0000000p-2f, 0x1.5728480000000p-2f, 0x1.834e860000000p-4f,
    0x1.fbbb7e0000000p-2f, -0x1.6655fa0000000p-2f, -0x1.3126660000000p-4f, 0x1.c230140000000p-2f, -0x1.d1bfd40000000p-2f, 0x1.ba57880000000p-4f, 0x1.4c9a0e0000000p-2f, -0x1.ff0bc40000000p-2f,
    -0x1.05ac920000000p-3f, -0x1.3c7c780000000p-2f, 0x1.ffe4da0000000p-2f, -0x1.2bd8a80000000p-2f, -0x1.2dbe640000000p-3f, 0x1.e17fe80000000p-2f, -0x1.acdd7a0000000p-2f, 0x1.16e9f00000000p-5f,
    -0x1.da04620000000p-2f, 0x1.b7e40e0000000p-2f, -0x1.bcf9ba0000000p-5f, -0x1.74ebb40000000p-2f, 0x1.f8a09a0000000p-2f, -0x1.d553440000000p-3f, -0x1.bc2d080000000p-3f, 0x1.f60fd40000000p-2f,
    0x1.f9f8da0000000p-3f, 0x1.96432a0000000p-3f, -0x1.f18f900000000p-2f, 0x1.8bf1a20000000p-2f, 0x1.4d5bf20000000p-6f, -0x1.a507980000000p-2f, 0x1.e618440000000p-2f, -0x1.487ae60000000p-3f};
inline constexpr float linear_bias_19[8] = {
    0x1.aed5480000000p-2f, 0x1.b5a3120000000p-3f, -0x1.e738640000000p-2f, -0x1.75119e0000000p-4f, 0x1.ff41120000000p-2f, -0x1.33d1aa0000000p-5f, -0x1.f556c80000000p-2f, 0x1.4f55760000000p-3f};
inline constexpr float linear_1_weight_23[64] = {
    0x1.d18f6e0000000p-2f, 0x1.b95be40000000p-5f, -0x1.9919580000000p-2f, -0x1.d9d8560000000p-2f, -0x1.2f59ec0000000p-4f, 0x1.8c3b660000000p-2f, 0x1.e158460000000p-2f, 0x1.81853e0000000p-4f,
    -0x1.0f46ae0000000p-2f, -0x1.ffe2700000000p-2f, -0x1.f92e620000000p-3f, 0x1.fac3380000000p-3f, 0x1.ffe72c0000000p-2f, 0x1.0e811e0000000p-2f, -0x1.d622260000000p-3f, -0x1.ff12d00000000p-2f,
    -0x1.8ba7ca0000000p-2f, 0x1.32f2d20000000p-4f, 0x1.da30560000000p-2f, 0x1.988d2e0000000p-2f, -0x1.c097780000000p-5f, -0x1.d1f0220000000p-2f, -0x1.a4c54e0000000p-2f, 0x1.1a8b0c0000000p-5f,
    0x1.753b6e0000000p-2f, 0x1.ec1c360000000p-2f, 0x1.04cb720000000p-3f, -0x1.66a9160000000p-2f, -0x1.f174100000000p-2f, -0x1.2cdfe00000000p-3f, 0x1.577ea40000000p-2f, 0x1.f5f8f40000000p-2f,
    0x1.2b7a440000000p-2f, -0x1.9718d60000000p-3f, -0x1.fbca700000000p-2f, -0x1.3c20ee0000000p-2f, 0x1.7086420000000p-3f, 0x1.f8b43c0000000p-2f, 0x1.4c41840000000p-2f, -0x1.4957620000000p-3f,
    -0x1.c2677c0000000p-2f, -0x1.b7a8720000000p-2f, 0x1.d1a6640000000p-12f, 0x1.b81f940000000p-2f, 0x1.c1f8960000000p-2f, 0x1.4616da0000000p-6f, -0x1.ad1d060000000p-2f, -0x1.cb89e40000000p-2f,
    -0x1.6ed3a80000000p-3f, 0x1.3cd7f20000000p-2f, 0x1.fbac700000000p-2f, 0x1.956d680000000p-3f, -0x1.2c36fc0000000p-2f, -0x1.fdf4b60000000p-2f, -0x1.bb5b360000000p-3f, 0x1.1b16b60000000p-2f,
    0x1.f1aaf80000000p-2f, 0x1.6602ca0000000p-2f, -0x1.068da20000000p-3f, -0x1.ec5c460000000p-2f, -0x1.749be60000000p-2f, 0x1.bc1e260000000p-4f, 0x1.e63cc60000000p-2f, 0x1.8296fc0000000p-2f};
inline constexpr float linear_1_bias_24[8] = {
    0x1.2103860000000p-4f, -0x1.fff5f00000000p-2f, 0x1.dd62b20000000p-5f, 0x1.f095660000000p-2f, -0x1.77464e0000000p-3f, -0x1.c03b440000000p-2f, 0x1.2f24420000000p-2f, 0x1.721d820000000p-2f};
inline constexpr float linear_2_weight_27[32] = {
    -0x1.837b9e0000000p-2f, -0x1.19f3740000000p-2f, 0x1.cc23780000000p-2f, 0x1.46c1b80000000p-3f, -0x1.f63d460000000p-2f, -0x1.0fa78c0000000p-5f, 0x1.fefd5a0000000p-2f, -0x1.86e0de0000000p-4f,
    -0x1.e5cef20000000p-2f, 0x1.bdd06a0000000p-3f, 0x1.ac5e200000000p-2f, -0x1.4d4aee0000000p-2f, -0x1.567b5a0000000p-2f, 0x1.a58be80000000p-2f, 0x1.d3b5380000000p-3f, -0x1.e1cede0000000p-2f,
    -0x1.b6ca0a0000000p-4f, 0x1.fe136c0000000p-2f, -0x1.5be5ec0000000p-6f, -0x1.f879080000000p-2f, 0x1.2f7b3e0000000p-3f, 0x1.d15ef00000000p-2f, -0x1.0fa9620000000p-2f, -0x1.8b5ddc0000000p-2f,
    0x1.758b160000000p-2f, 0x1.2b1bd00000000p-2f, -0x1.c29ecc0000000p-2f, -0x1.6dfa400000000p-3f, 0x1.f1c6440000000p-2f, 0x1.b5bdf80000000p-5f, -0x1.ffdfe80000000p-2f, 0x1.34bf2e0000000p-4f};
inline constexpr float linear_2_bias_28[4] = {
    -0x1.eaf8200000000p-2f, 0x1.9e90fa0000000p-3f, 0x1.b58dfc0000000p-2f, -0x1.4009420000000p-2f};
}  // namespace detail

//   in[0 ... 6]  state (7)
//   out[0 ... 3]  extrapolated (4)
inline constexpr std::size_t inputs = 7, outputs = 4;

template <typename T = float>
inline void evaluate(const T* in, T* out) {
  using namespace detail;
  T sub_1[7];
  for (int i = 0; i < 7; ++i) sub_1[i] = in[i] - in[i];
  T sum_1_2[1];
  { T s = T(0); for (int k = 0; k < 7; ++k) s += sub_1[(0 * 7 + k)]; sum_1_2[0] = s; }
  T eq_2_5[1];
  eq_2_5[0] = is_equal(sum_1_2[0], T(0));
  T where_9[7];
  for (int i = 0; i < 7; ++i) where_9[i] = choose(eq_2_5[0], in[i], T(typical_0_8[i]));
  T mul_13_12[1];
  mul_13_12[0] = where_9[4] * T(0x1.3a5aec0000000p-12);
  T mul_15_13[1];
  mul_15_13[0] = mul_13_12[0] * where_9[6];
  T div_17[5];
  for (int i = 0; i < 5; ++i) div_17[i] = where_9[i] / T(module_scale_16[i]);
  T linear_20[8];
  detail::dense<5, 8>(&div_17[0], linear_weight_18, linear_bias_19, linear_20);
  T val_73_21[8];
  for (int i = 0; i < 8; ++i) val_73_21[i] = detail::sigmoid(linear_20[i]);
  T silu_22[8];
  for (int i = 0; i < 8; ++i) silu_22[i] = linear_20[i] * val_73_21[i];
  T linear_1_25[8];
  detail::dense<8, 8>(&silu_22[0], linear_1_weight_23, linear_1_bias_24, linear_1_25);
  T tanh_26[8];
  for (int i = 0; i < 8; ++i) tanh_26[i] = detail::tanh(linear_1_25[i]);
  T linear_2_29[4];
  detail::project<8, 4>(&tanh_26[0], linear_2_weight_27, linear_2_bias_28, linear_2_29);
  T mul_33_32[4];
  for (int i = 0; i < 4; ++i) mul_33_32[i] = linear_2_29[i] * T(0x1.99999a0000000p-4);
  T add_58_35[4];
  for (int i = 0; i < 4; ++i) add_58_35[i] = mul_33_32[i] + T(1);
  T mul_38_36[4];
  for (int i = 0; i < 4; ++i) mul_38_36[i] = mul_15_13[0] * add_58_35[i];
  T mul_49_37[2];
  for (int i = 0; i < 2; ++i) mul_49_37[i] = where_9[6] * where_9[2 + i];
  T add_80_38[2];
  for (int i = 0; i < 2; ++i) add_80_38[i] = where_9[i] + mul_49_37[i];
  T mul_54_41[1];
  mul_54_41[0] = where_9[6] * T(0x1.0000000000000p-1);
  T mul_60_42[2];
  for (int i = 0; i < 2; ++i) mul_60_42[i] = mul_54_41[0] * mul_38_36[i];
  T add_96_43[2];
  for (int i = 0; i < 2; ++i) add_96_43[i] = add_80_38[i] + mul_60_42[i];
  T add_112_44[2];
  for (int i = 0; i < 2; ++i) add_112_44[i] = where_9[2 + i] + mul_38_36[2 + i];
  T sub_40_45[4];
  for (int i = 0; i < 2; ++i) sub_40_45[i] = add_96_43[i];
  for (int i = 0; i < 2; ++i) sub_40_45[2 + i] = add_112_44[i];
  T sub_40_46[4];
  for (int i = 0; i < 2; ++i) sub_40_46[i] = add_96_43[i];
  for (int i = 0; i < 2; ++i) sub_40_46[2 + i] = add_112_44[i];
  T sub_40_47[4];
  for (int i = 0; i < 4; ++i) sub_40_47[i] = sub_40_45[i] - sub_40_46[i];
  T sum_2_48[1];
  { T s = T(0); for (int k = 0; k < 4; ++k) s += sub_40_47[(0 * 4 + k)]; sum_2_48[0] = s; }
  T add_124_49[1];
  add_124_49[0] = sum_1_2[0] + sum_2_48[0];
  T eq_45_52[1];
  eq_45_52[0] = is_equal(add_124_49[0], T(0));
  T extrapolated_54[4];
  for (int i = 0; i < 2; ++i) extrapolated_54[i] = add_96_43[i];
  for (int i = 0; i < 2; ++i) extrapolated_54[2 + i] = add_112_44[i];
  T extrapolated_56[4];
  for (int i = 0; i < 4; ++i) extrapolated_56[i] = choose(eq_45_52[0], extrapolated_54[i], T(NAN));
  for (int i = 0; i < 4; ++i) out[i] = extrapolated_56[i];
}

template <typename T = float>
inline void evaluate(const T* in, T* out, std::size_t rows) {
  detail::in_blocks<inputs, outputs>(in, out, rows, [&](const auto* x, auto* y) { evaluate(x, y); });
}

}  // inline namespace
}  // namespace golden
