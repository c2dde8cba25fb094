"use strict";
// Set before the first layout, so that what the main script hides never appears.
document.documentElement.classList.add("script");
