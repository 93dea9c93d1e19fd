// What all programs of this folder share: options, files of states, the golden vector, and timing.
#pragma once
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace program {

using Options = std::map<std::string, std::string>;

// --name value pairs; every name must be known.
inline Options read_options(int count, char** words, const std::vector<std::string>& known) {
  Options options;
  for (int i = 1; i < count; i += 2) {
    const std::string name = words[i];
    if (std::find(known.begin(), known.end(), name) == known.end() || i + 1 == count) {
      std::string text = "unknown option or missing value: " + name + "; options:";
      for (const auto& option : known) text += " " + option;
      throw std::runtime_error(text);
    }
    options[name] = words[i + 1];
  }
  return options;
}

inline std::string get(const Options& options, const std::string& name, const std::string& otherwise) {
  const auto found = options.find(name);
  return found == options.end() ? otherwise : found->second;
}

inline double number(const Options& options, const std::string& name, double otherwise) {
  const std::string text = get(options, name, "");
  if (text.empty()) return otherwise;
  char* end;
  const double value = std::strtod(text.c_str(), &end);
  if (*end) throw std::runtime_error(name + " " + text + " is not a number");
  return value;
}

inline bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// Names of the numbers of a row, and how far an answer may be off.
struct Columns {
  std::vector<std::string> in, out;
  double tolerance = 1e-5;
};

// A header line with the names of the columns in another order is a mistake; other words are not looked at.
inline void check_header(const std::string& path, const std::string& line, const std::vector<std::string>& names) {
  std::vector<std::string> words;
  std::stringstream text(line);
  for (std::string word; std::getline(text, word, ',');) words.push_back(word.substr(0, word.find_last_not_of(" \r") + 1));
  if (words == names || !std::is_permutation(words.begin(), words.end(), names.begin(), names.end())) return;
  std::string wanted;
  for (const auto& name : names) wanted += (wanted.empty() ? "" : ",") + name;
  throw std::runtime_error(path + ": the columns are " + line + "; bring them into the order " + wanted);
}

// Rows of numbers: comma-separated text with one header line (.csv), or raw float64.
inline std::vector<double> read_rows(const std::string& path, const std::vector<std::string>& names) {
  const std::size_t columns = names.size();
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  std::vector<double> rows;
  if (!ends_with(path, ".csv")) {
    file.seekg(0, std::ios::end);
    const std::size_t bytes = static_cast<std::size_t>(file.tellg());
    if (bytes % (8 * columns)) throw std::runtime_error(path + ": " + std::to_string(bytes) + " bytes are no rows of " + std::to_string(columns) + " float64");
    rows.resize(bytes / 8);
    file.seekg(0);
    file.read(reinterpret_cast<char*>(rows.data()), static_cast<std::streamsize>(bytes));
    return rows;
  }
  std::string line;
  std::getline(file, line);
  check_header(path, line, names);
  for (int at = 2; std::getline(file, line); ++at) {
    std::stringstream words(line);
    std::string word;
    std::size_t found = 0;
    for (; std::getline(words, word, ','); ++found) rows.push_back(std::strtod(word.c_str(), nullptr));
    if (found != columns)
      throw std::runtime_error(path + ", line " + std::to_string(at) + ": " + std::to_string(found) + " numbers, expected " + std::to_string(columns));
  }
  return rows;
}

inline void write_rows(const std::string& path, const std::vector<double>& rows, const std::vector<std::string>& names) {
  const std::size_t columns = names.size();
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (!file) throw std::runtime_error("cannot write " + path);
  if (ends_with(path, ".csv")) {
    for (std::size_t c = 0; c < columns; ++c) std::fprintf(file, "%s%c", names[c].c_str(), c + 1 == columns ? '\n' : ',');
    for (std::size_t i = 0; i < rows.size(); ++i) std::fprintf(file, "%.17g%c", rows[i], (i + 1) % columns == 0 ? '\n' : ',');
  } else {
    std::fwrite(rows.data(), 8, rows.size(), file);
  }
  std::fclose(file);
}

// Median nanoseconds of one of `count` calls, over `repeats` rounds after one that is not counted.
template <class Call>
double median_ns(Call&& call, std::size_t count, int repeats) {
  std::vector<double> times;
  for (int r = 0; r <= repeats; ++r) {
    const auto begin = std::chrono::steady_clock::now();
    call();
    const double ns = std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begin).count();
    if (r) times.push_back(ns / static_cast<double>(count));
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

inline const std::vector<std::string> common{"--states", "--out", "--golden", "--tolerance", "--time", "--repeats"};

// The whole of a program around `call(in, out, rows)`, which turns rows of `columns.in` into rows of `columns.out`.
//   --states FILE --out FILE    compute
//   --golden FILE               compare with the outputs that follow the inputs in each line; --tolerance, by default that of the file, of each column's largest value
//   --time N                    nanoseconds for one state a call (over 1024 states in turn) and for N states at once, printed as JSON
template <typename S, class Call>
int run(const std::string& name, const std::string& detail, const Columns& columns, Call&& call, const Options& options) {
  const std::size_t inputs = columns.in.size(), outputs = columns.out.size();
  const auto convert = [&](const std::vector<double>& rows) { return std::vector<S>(rows.begin(), rows.end()); };
  if (options.count("--golden")) {
    std::vector<std::string> both = columns.in;
    both.insert(both.end(), columns.out.begin(), columns.out.end());
    const std::vector<double> rows = read_rows(options.at("--golden"), both);
    const std::size_t n = rows.size() / (inputs + outputs);
    std::vector<S> in, out(n * outputs);
    for (std::size_t r = 0; r < n; ++r)
      for (std::size_t c = 0; c < inputs; ++c) in.push_back(static_cast<S>(rows[r * (inputs + outputs) + c]));
    call(in.data(), out.data(), n);
    double worst = 0;
    for (std::size_t c = 0; c < outputs; ++c) {
      double largest = 1e-30, difference = 0;
      for (std::size_t r = 0; r < n; ++r) {
        const double wanted = rows[r * (inputs + outputs) + inputs + c];
        largest = std::max(largest, std::abs(wanted));
        difference = std::max(difference, std::isnan(out[r * outputs + c]) ? INFINITY : std::abs(static_cast<double>(out[r * outputs + c]) - wanted));
      }
      worst = std::max(worst, difference / largest);
    }
    const double allowed = number(options, "--tolerance", columns.tolerance);
    std::printf("{\"program\": \"%s\", \"golden_rows\": %zu, \"max_relative_difference\": %.3g, \"passed\": %s}\n", name.c_str(), n, worst, worst <= allowed ? "true" : "false");
    return worst <= allowed ? 0 : 1;
  }
  const std::vector<double> rows = read_rows(get(options, "--states", "states.csv"), columns.in);
  const std::size_t given = rows.size() / inputs;
  if (given == 0) throw std::runtime_error("no states");
  if (options.count("--time")) {
    const std::size_t n = static_cast<std::size_t>(number(options, "--time", 1e6)), few = std::min<std::size_t>(1024, given);
    const int repeats = static_cast<int>(number(options, "--repeats", 7));
    const std::vector<S> few_in = convert(std::vector<double>(rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(few * inputs)));
    std::vector<S> in(n * inputs), out(std::max(n, few) * outputs);
    for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<S>(rows[i % rows.size()]);
    const double single = median_ns([&] {
      for (std::size_t r = 0; r < few; ++r) call(&few_in[r * inputs], &out[r * outputs], std::size_t{1});
    }, few, 4 * repeats);
    const double many = median_ns([&] { call(in.data(), out.data(), n); }, n, repeats);
    double sum = 0;
    for (const S value : out) sum += std::isfinite(value) ? static_cast<double>(value) : 0;
    std::printf("{\"program\": \"%s\", %s, \"states\": %zu, \"single_ns\": %.2f, \"many_ns\": %.2f, \"repeats\": %d, \"checksum\": %.9g}\n",
                name.c_str(), detail.c_str(), n, single, many, repeats, sum);
    return 0;
  }
  const std::vector<S> in = convert(rows);
  std::vector<S> out(given * outputs);
  call(in.data(), out.data(), given);
  write_rows(get(options, "--out", "final.csv"), std::vector<double>(out.begin(), out.end()), columns.out);
  return 0;
}

// main() of every program: one line on standard error instead of an abort.
template <class Body>
int guarded(Body&& body) {
  try {
    return body();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}

}  // namespace program
