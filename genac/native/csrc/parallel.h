// Threads: OpenMP's where the compiler has it, or std::thread's (Apple's clang comes without).
#pragma once

#include <atomic>
#include <new>

#ifndef _OPENMP
#include <system_error>
#include <thread>
#include <vector>
#endif

#include "structs.h"

// body(thread) once on each of `threads` threads. The system may give fewer, so bodies share their
// work by a counter and never wait for each other.
template <class Body>
static void parallel(Int threads, const Body &body) {
#ifdef _OPENMP
    std::atomic<Int> started{0};  // numbers them without omp.h, which not every compiler brings
#pragma omp parallel num_threads((int)threads)
    body(started++);
#else
    std::vector<std::thread> others;
    others.reserve(threads);
    try {
        for (Int i = 1; i < threads; i++) others.emplace_back([&body, i] { body(i); });
    } catch (const std::system_error &) {  // no more threads: those that run do the work of all
    }
    body(0);
    for (std::thread &other : others) other.join();
#endif
}

// body(i, thread) for all i < count, each as soon as a thread is free.
template <class Body>
static void parallel_for(Int count, Int threads, const Body &body) {
    std::atomic<Int> next{0};
    parallel(count < threads ? count : threads, [&](Int thread) {
        for (Int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) body(i, thread);
    });
}

// What an exported function returns: 0, or 1 where there was no memory.
template <class Body>
static int status_of(const Body &body) {
    try {
        return body() ? 0 : 1;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}
