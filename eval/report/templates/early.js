"use strict";
// Before anything is laid out: pages of runs are long, and only one is shown at a time.
document.documentElement.classList.add("script");
