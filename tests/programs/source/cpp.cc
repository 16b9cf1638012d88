#include <chrono>
#include <filesystem>
#include <fstream>
#include <future>
#include <iostream>
#include <map>
#include <numeric>
#include <vector>
int main() {
    std::vector<std::future<int>> answers;
    for (int n = 0; n < 8; n++) answers.push_back(std::async(std::launch::async, [n] { return n * n; }));
    int sum = 0;
    for (auto &each : answers) sum += each.get();
    std::ofstream("out.txt") << "written";
    try { std::map<std::string, int>().at("nothing"); }
    catch (const std::out_of_range &) { std::cout << sum << ' '; }
    std::cout << std::filesystem::file_size("out.txt") << std::endl;
}
