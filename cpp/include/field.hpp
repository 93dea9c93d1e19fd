// The magnetic fields of thesis_surrogates.tracks, with the same formulas in the same order of operations.
// Positions in mm, components in tesla, polarity +1 as stored (By < 0 in LHCb) or -1 (all components flipped).
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace tracks {

struct Vector {
  double x, y, z;
};

// Every field is a callable (x, y, z) -> Vector with a list of planes across the beam where it is not smooth.

struct UniformField {
  double polarity = 1, by = -1;
  static constexpr std::array<double, 0> planes() { return {}; }
  Vector operator()(double, double, double) const { return {0, polarity * by, 0}; }
};

struct GaussianField {
  double polarity = 1, amplitude = -1.0182, centre = 5007, width = 1744;
  static constexpr std::array<double, 0> planes() { return {}; }
  Vector operator()(double, double, double z) const {
    const double u = (z - centre) / width;
    return {0, polarity * amplitude * std::exp(-0.5 * u * u), 0};
  }
};

struct DipoleField {
  double polarity = 1, strength = -1.6512e10, height = 4000, centre = 5000;
  static constexpr std::array<double, 0> planes() { return {}; }
  Vector operator()(double x, double y, double z) const {
    Vector b{0, 0, 0};
    const double w = z - centre;
    for (const double place : {height, -height}) {
      const double v = y - place, r2 = x * x + v * v + w * w;
      const double k3 = polarity * strength / (r2 * std::sqrt(r2)), k5 = 3 * v * k3 / r2;
      b.x += k5 * x;
      b.y += k5 * v - k3;
      b.z += k5 * w;
    }
    return b;
  }
};

struct LHCbLikeField {
  double polarity = 1, amplitude = -1.055, centre = 4616, width_before = 1107, width_after = 2061;
  std::array<double, 1> planes() const { return {centre}; }
  Vector operator()(double, double y, double z) const {
    const double u = z - centre, width = width_before + (width_after - width_before) * (u >= 0);
    const double v = u / (width * width), b = polarity * amplitude * std::exp(-0.5 * u * v);
    const double slope = -v * b, curvature = (v * v - 1 / (width * width)) * b;
    return {0, b - 0.5 * y * y * curvature, y * slope};
  }
};

// A map: trilinear between the nodes of a regular grid, zero outside. Values in single precision, as in the files.
struct GridField {
  double polarity = 1;
  std::array<double, 3> start{}, pitch{};
  std::array<int, 3> nodes{};
  std::vector<float> values;  // [nx][ny][nz][3]
  static constexpr std::array<double, 0> planes() { return {}; }

  Vector operator()(double x, double y, double z) const {
    const std::array<double, 3> u{(x - start[0]) / pitch[0], (y - start[1]) / pitch[1], (z - start[2]) / pitch[2]};
    std::array<int, 3> cell;
    std::array<double, 3> f;
    for (int k = 0; k < 3; ++k) {
      if (!(0 <= u[k] && u[k] <= nodes[k] - 1)) return {0, 0, 0};
      cell[k] = std::min(std::max(static_cast<int>(std::floor(u[k])), 0), nodes[k] - 2);
      f[k] = u[k] - cell[k];
    }
    Vector b{0, 0, 0};
    for (int i = 0; i < 2; ++i)
      for (int j = 0; j < 2; ++j)
        for (int k = 0; k < 2; ++k) {
          const double weight = polarity * (i ? f[0] : 1 - f[0]) * (j ? f[1] : 1 - f[1]) * (k ? f[2] : 1 - f[2]);
          const float* node = &values[3 * ((static_cast<std::size_t>(cell[0] + i) * nodes[1] + (cell[1] + j)) * nodes[2] + (cell[2] + k))];
          b.x += weight * node[0];
          b.y += weight * node[1];
          b.z += weight * node[2];
        }
    return b;
  }

  // Text (six columns x y z Bx By Bz, any order of rows) or binary (letters FIELDMAP, version 1, x fastest).
  static GridField read(const std::string& path, double polarity = 1) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("no field map at " + path);
    char letters[8] = {};
    file.read(letters, 8);
    GridField map = std::memcmp(letters, "FIELDMAP", 8) == 0 ? read_binary(file, path) : read_text(path);
    map.polarity = polarity;
    return map;
  }

 private:
  void store(int i, int j, int k, const float* b) {
    std::copy(b, b + 3, &values[3 * ((static_cast<std::size_t>(i) * nodes[1] + j) * nodes[2] + k)]);
  }

  static GridField read_binary(std::ifstream& file, const std::string& path) {
    std::uint32_t head[4];
    double frame[6];
    file.read(reinterpret_cast<char*>(head), sizeof head);
    file.read(reinterpret_cast<char*>(frame), sizeof frame);
    if (!file || head[0] != 1) throw std::runtime_error(path + ": not a map of version 1");
    GridField map;
    for (int a = 0; a < 3; ++a) {
      map.nodes[a] = static_cast<int>(head[1 + a]);
      map.start[a] = frame[2 * a];
      map.pitch[a] = frame[2 * a + 1];
    }
    map.values.resize(3 * static_cast<std::size_t>(head[1]) * head[2] * head[3]);
    float b[3];
    for (int k = 0; k < map.nodes[2]; ++k)
      for (int j = 0; j < map.nodes[1]; ++j)
        for (int i = 0; i < map.nodes[0]; ++i) {
          file.read(reinterpret_cast<char*>(b), sizeof b);
          map.store(i, j, k, b);
        }
    if (!file) throw std::runtime_error(path + " ends before its last node");
    return map;
  }

  static GridField read_text(const std::string& path) {
    std::ifstream file(path);
    std::vector<std::array<double, 6>> rows;
    for (std::string line; std::getline(file, line);) {
      if (line.empty() || line[0] == '#') continue;
      std::array<double, 6> row;
      const char* at = line.c_str();
      for (double& number : row) {
        char* end;
        number = std::strtod(at, &end);
        if (end == at) throw std::runtime_error(path + ": a line without six numbers: " + line);
        at = end;
      }
      rows.push_back(row);
    }
    GridField map;
    std::array<std::map<double, int>, 3> axis;
    for (const auto& row : rows)
      for (int a = 0; a < 3; ++a) axis[a][row[a]] = 0;
    for (int a = 0; a < 3; ++a) {
      if (axis[a].size() < 2) throw std::runtime_error(path + ": an axis with fewer than two nodes");
      int n = 0;
      for (auto& entry : axis[a]) entry.second = n++;
      map.nodes[a] = n;
      map.start[a] = axis[a].begin()->first;
      map.pitch[a] = std::next(axis[a].begin())->first - map.start[a];
    }
    if (rows.size() != static_cast<std::size_t>(map.nodes[0]) * map.nodes[1] * map.nodes[2])
      throw std::runtime_error(path + ": nodes are missing or repeated");
    map.values.resize(3 * rows.size());
    for (const auto& row : rows) {
      const float b[3] = {static_cast<float>(row[3]), static_cast<float>(row[4]), static_cast<float>(row[5])};
      map.store(axis[0][row[0]], axis[1][row[1]], axis[2][row[2]], b);
    }
    return map;
  }
};

}  // namespace tracks
