// Runge-Kutta of fixed step (order 4) and Cash-Karp of controlled step (order 5), as in thesis_surrogates.tracks.steppers:
// the same legs (cut where the field is not smooth), the same places where the field is read, the same step control.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

#include "field.hpp"

namespace tracks {

constexpr double curvature = 0.299792458e-3;  // 1/(T mm) for q/p in 1/GeV
constexpr double steep = 10.0;                // slope at which a track counts as turned over
constexpr double inner = 1.0 - 1e-12;         // the field is read this close to the ends of a leg, on the inner side

struct State {
  double x, y, tx, ty;  // mm, mm, 1, 1
};

inline State lost() {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  return {nan, nan, nan, nan};
}

inline bool turned_over(const State& s) { return !(std::abs(s.tx) < steep && std::abs(s.ty) < steep); }

// d(x, y, tx, ty)/dz
template <class Field>
inline State slope(const Field& field, double z, const State& s, double kappa) {
  const Vector b = field(s.x, s.y, z);
  const double n = kappa * std::sqrt(1 + s.tx * s.tx + s.ty * s.ty);
  return {s.tx, s.ty, n * (s.tx * s.ty * b.x - (1 + s.tx * s.tx) * b.y + s.ty * b.z), n * ((1 + s.ty * s.ty) * b.x - s.tx * s.ty * b.y - s.tx * b.z)};
}

inline State moved(const State& s, double h, const State& k) { return {s.x + h * k.x, s.y + h * k.y, s.tx + h * k.tx, s.ty + h * k.ty}; }

// The next plane strictly between z and z_end, or z_end.
template <class Field>
inline double next_stop(const Field& field, double z, double z_end) {
  double stop = z_end;
  for (const double plane : field.planes())
    if ((plane - z) * (plane - stop) < 0) stop = plane;
  return stop;
}

// Equal steps of at most `step` mm in each leg.
template <class Field>
inline State rk4(const Field& field, double z, double z_end, State s, double kappa, double step) {
  while (z != z_end) {
    const double stop = next_stop(field, z, z_end);
    const int n = std::max(1, static_cast<int>(std::ceil(std::abs(stop - z) / step - 1e-9)));
    const double h = (stop - z) / n, g = 0.5 * h, middle = 0.5 * (z + stop), sixth = h / 6;
    for (int j = 0; j < n; ++j) {
      const double z0 = middle + inner * (z + j * h - middle), z1 = z + (j + 0.5) * h, z2 = middle + inner * (z + (j + 1) * h - middle);
      const State k1 = slope(field, z0, s, kappa);
      const State k2 = slope(field, z1, moved(s, g, k1), kappa);
      const State k3 = slope(field, z1, moved(s, g, k2), kappa);
      const State k4 = slope(field, z2, moved(s, h, k3), kappa);
      s = {s.x + sixth * (k1.x + 2 * (k2.x + k3.x) + k4.x), s.y + sixth * (k1.y + 2 * (k2.y + k3.y) + k4.y),
           s.tx + sixth * (k1.tx + 2 * (k2.tx + k3.tx) + k4.tx), s.ty + sixth * (k1.ty + 2 * (k2.ty + k3.ty) + k4.ty)};
      if (turned_over(s)) return lost();
    }
    z = stop;
  }
  return s;
}

struct CashKarp {
  static constexpr double c[6] = {0, 1.0 / 5, 3.0 / 10, 3.0 / 5, 1, 7.0 / 8};
  static constexpr double a[6][5] = {{0, 0, 0, 0, 0},
                                     {1.0 / 5, 0, 0, 0, 0},
                                     {3.0 / 40, 9.0 / 40, 0, 0, 0},
                                     {3.0 / 10, -9.0 / 10, 6.0 / 5, 0, 0},
                                     {-11.0 / 54, 5.0 / 2, -70.0 / 27, 35.0 / 27, 0},
                                     {1631.0 / 55296, 175.0 / 512, 575.0 / 13824, 44275.0 / 110592, 253.0 / 4096}};
  static constexpr double b5[6] = {37.0 / 378, 0, 250.0 / 621, 125.0 / 594, 0, 512.0 / 1771};
  static constexpr double b4[6] = {2825.0 / 27648, 0, 18575.0 / 48384, 13525.0 / 55296, 277.0 / 14336, 1.0 / 4};
};

// Steps of at most `step` mm, each with an estimated error of at most `tolerance` mm at z_end.
template <class Field>
inline State cash_karp(const Field& field, double z, double z_end, State s, double kappa, double step, double tolerance) {
  using T = CashKarp;
  double h = step;
  long lookups = 0;
  State k[6];
  while (z != z_end) {
    const double stop = next_stop(field, z, z_end), begin = z, sign = stop > z ? 1.0 : -1.0, middle = 0.5 * (begin + stop);
    while (z != stop) {
      const bool last = std::abs(stop - z) <= h * (1 + 1e-12);
      const double trial = last ? stop - z : sign * h;
      for (int i = 0; i < 6; ++i) {
        State at = s;
        for (int m = 0; m < i; ++m)
          if (T::a[i][m] != 0) at = moved(at, trial * T::a[i][m], k[m]);
        k[i] = slope(field, middle + inner * (z + T::c[i] * trial - middle), at, kappa);
      }
      State next = s, error{0, 0, 0, 0};
      for (int i = 0; i < 6; ++i) {
        if (T::b5[i] != 0) next = moved(next, trial * T::b5[i], k[i]);
        if (T::b5[i] != T::b4[i]) error = moved(error, trial * (T::b5[i] - T::b4[i]), k[i]);
      }
      lookups += 6;
      const double position = std::max(std::abs(error.x), std::abs(error.y)), slopes = std::max(std::abs(error.tx), std::abs(error.ty));
      const double ratio = std::max(position, slopes * std::abs(z_end - z)) / tolerance;
      if (turned_over(next) || lookups > 600000) return lost();
      if (ratio <= 1) {
        s = next;
        z = last ? stop : z + trial;
      }
      if (ratio > 1 || !last) h = std::min(step, std::abs(trial) * std::min(5.0, std::max(0.2, 0.9 * std::pow(std::max(ratio, 1e-12), -0.2))));
    }
  }
  return s;
}

}  // namespace tracks
