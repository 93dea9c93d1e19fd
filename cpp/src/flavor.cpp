// A flavor surrogate from a file of weights, as a simulation would hold it: one object for all cells of a rank.
// MODEL_READER (the .hpp beside the weights) and MODEL_NAMESPACE come from CMake. Nothing is linked but the standard library.
//   flavor --model model.bin                      NSM1 beside a simulation with Emu
//   flavor --model model.bin --golden FOLDER      all entry points, in batches of 0, 1, 7 and 10,000 rows
//   flavor --model model.bin --time 10000         nanoseconds a cell
#include MODEL_READER

#include "program.hpp"

namespace model = MODEL_NAMESPACE;

namespace {

// NSM1, S. Richers et al. (2024): flux x, y, z and density [1/cm^3] of e, mu, tau neutrinos, then antineutrinos.
std::vector<double> nsm1() {
  const double density[6] = {14.22e32, 4.9125e32, 4.9125e32, 19.15e32, 4.9125e32, 4.9125e32};
  const double factor[6][3] = {{0.0974, 0.0421, -0.1343}, {-0.0216, 0.0743, -0.5354}, {-0.0216, 0.0743, -0.5354},
                               {0.0723, 0.0313, -0.3446}, {-0.0216, 0.0743, -0.5354}, {-0.0216, 0.0743, -0.5354}};
  std::vector<double> cell(24);
  for (int species = 0; species < 6; ++species) {
    for (int k = 0; k < 3; ++k) cell[static_cast<std::size_t>(6 * k + species)] = factor[species][k] * density[species];
    cell[static_cast<std::size_t>(18 + species)] = density[species];
  }
  return cell;
}

int show(const model::Surrogate& surrogate) {
  const char* names[6] = {"nu e", "nu mu", "nu tau", "antinu e", "antinu mu", "antinu tau"};
  const double emu[6] = {9.9546e32, 7.8547e32, 6.2329e32, 1.48813e33, 7.8547e32, 6.2329e32};
  const std::vector<double> cell = nsm1();
  double out[model::Surrogate::predict_all_outputs], physical[1];
  surrogate.predict_all(cell.data(), out);
  surrogate.is_physical(cell.data(), physical);
  if (physical[0] != 1) throw std::runtime_error("NSM1 is called unphysical; export the surrogate again");
  std::printf("%-12s%14s%14s%14s  1/cm^3\n", "density", "before", "surrogate", "Emu");
  for (std::size_t k = 0; k < 6; ++k) std::printf("%-12s%14.5g%14.5g%14.5g\n", names[k], cell[18 + k], out[18 + k], emu[k]);
  std::printf("growth rate %.4g 1/s, stability %.3g\n", out[24], out[25]);
  return 0;
}

// Rows of a golden file, again and again until there are enough.
template <typename T>
std::vector<T> repeated(const std::vector<double>& rows, std::size_t width, std::size_t first, std::size_t columns, std::size_t count) {
  std::vector<T> result;
  for (std::size_t r = 0; r < count; ++r)
    for (std::size_t c = 0; c < columns; ++c) result.push_back(static_cast<T>(rows[(r * width + first + c) % rows.size()]));
  return result;
}

// Largest difference of an entry point from its golden file, of each column's largest magnitude.
template <typename T>
double worst_of(const model::Surrogate& surrogate, const typename model::Surrogate::Entry<T>& entry, const std::vector<double>& rows, std::size_t count) {
  const std::size_t width = entry.inputs + entry.outputs;
  const auto in = repeated<T>(rows, width, 0, entry.inputs, count);
  std::vector<T> out(count * entry.outputs + 1, T(-7));
  (surrogate.*entry.ask)(in.data(), out.data(), count);
  if (out.back() != T(-7)) return INFINITY;  // wrote behind its last row
  double worst = 0;
  for (std::size_t c = 0; c < entry.outputs; ++c) {
    double largest = 1e-30, difference = 0;
    for (std::size_t r = 0; r < rows.size() / width; ++r) largest = std::max(largest, std::abs(rows[r * width + entry.inputs + c]));
    for (std::size_t r = 0; r < count; ++r) {
      const double off = std::abs(static_cast<double>(out[r * entry.outputs + c]) - rows[(r * width + entry.inputs + c) % rows.size()]);
      difference = std::max(difference, std::isnan(off) ? INFINITY : off);
    }
    worst = std::max(worst, difference / largest);
  }
  return worst;
}

template <typename T>
bool compare(const model::Surrogate& surrogate, const std::string& folder, const char* precision, double tolerance) {
  bool passed = true;
  for (const auto& entry : model::Surrogate::entries<T>()) {
    std::vector<std::string> names(entry.inputs + entry.outputs);
    const auto rows = program::read_rows(folder + "/" + entry.name + ".csv", names);
    double worst = 0;
    for (const std::size_t count : {0, 1, 7, 10000}) worst = std::max(worst, worst_of<T>(surrogate, entry, rows, count));
    passed = passed && worst <= tolerance;
    std::printf("{\"entry_point\": \"%s\", \"precision\": \"%s\", \"max_relative_difference\": %.3g, \"passed\": %s}\n", entry.name, precision, worst, worst <= tolerance ? "true" : "false");
  }
  return passed;
}

template <typename T>
double time_cells(const model::Surrogate& surrogate, std::size_t count) {
  const auto in = repeated<T>(nsm1(), 24, 0, 24, count);
  std::vector<T> out(count * model::Surrogate::predict_all_outputs);
  return program::median_ns([&] { surrogate.predict_all(in.data(), out.data(), count); }, count, 5);
}

}  // namespace

int main(int count, char** words) {
  return program::guarded([&] {
    const program::Options options = program::read_options(count, words, {"--model", "--golden", "--time"});
    const model::Surrogate surrogate(program::get(options, "--model", "model.bin"));
    if (options.count("--golden")) {
      const std::string folder = options.at("--golden");
      const bool in_double = compare<double>(surrogate, folder, "double", 1e-6);
      return compare<float>(surrogate, folder, "float", 1e-4) && in_double ? 0 : 1;
    }
    if (options.count("--time")) {
      const auto cells = static_cast<std::size_t>(program::number(options, "--time", 10000));
      std::printf("{\"cells\": %zu, \"float_ns\": %.1f, \"double_ns\": %.1f}\n", cells, time_cells<float>(surrogate, cells), time_cells<double>(surrogate, cells));
      return 0;
    }
    return show(surrogate);
  });
}
