// What a page shows: every character that can be seen, with its box, in the order of the document.
//
//     prepare() -> height of the page in px          measure({width, height, most}) -> {blocks, glyphs, complete}
//
// A block is what begins a new line: a paragraph, a cell, a flex item. A glyph is [block, text, x0, y0, x1, y1], or
// [block, white space]. Words that are printed but not part of the document's text (values of form fields, numbers of
// lists, generated content, what stands in the place of a missing picture) are blanked, so that the picture and the
// glyphs agree. This runs with the page's own scripts off: no promise and no callback would ever return here.
({
  prepare() {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(`
      * { pointer-events: auto !important; text-overflow: clip !important; hyphens: none !important;
          -webkit-line-clamp: none !important; caret-color: transparent !important; }
      *::before, *::after, input, select, textarea, ::placeholder, ::file-selector-button
        { -webkit-text-fill-color: transparent !important; text-shadow: none !important; }
      ol > li::marker { color: transparent !important; }
      iframe, frame, object, embed, video, audio, marquee { visibility: hidden !important; }
    `);
    document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
    for (const element of document.querySelectorAll("[inert]")) element.removeAttribute("inert");
    for (const picture of document.images) if (picture.loading === "lazy") picture.loading = "eager";
    window.scrollTo(0, 0);
    const root = document.scrollingElement || document.documentElement;
    return root ? root.scrollHeight : 0;
  },

  isReady() {
    return document.fonts.status === "loaded" && [...document.images].every((picture) => picture.complete);
  },

  measure({ width, height, most }) {
    for (const picture of document.images) {
      if (!picture.complete || !picture.naturalWidth) picture.style.setProperty("visibility", "hidden", "important");
    }
    for (const animation of document.getAnimations()) {
      try { animation.finish(); animation.commitStyles(); } catch { /* it never ends, or moves generated content */ }
      animation.cancel();
    }
    window.scrollTo(0, 0);

    const roles = [
      ["pre", "code"], ["h1, h2, h3, h4, h5, h6", "title"], ["button", "button"], ["th", "header"], ["td", "cell"],
      ["figcaption, caption", "caption"], ["label", "label"], ["dt", "key"], ["dd", "value"],
    ];
    const blocks = [], numbers = new Map(), opaque = new Map(), glyphs = [];
    const segmenter = new Intl.Segmenter(undefined, { granularity: "grapheme" });
    const range = document.createRange();
    let complete = true;

    const alpha = (colour) => {
      const numbers = colour.match(/[\d.]+/g) || [];
      return colour.includes("/") || colour.startsWith("rgba") ? Number(numbers[numbers.length - 1]) : 1;
    };
    const covers = (style) =>
      style.visibility === "visible" && Number(style.opacity) > 0.5
      && (alpha(style.backgroundColor) > 0.5 || style.backgroundImage !== "none");

    // Whether an element hides what lies below it at a point. Outside of its own boxes it is hit through its generated
    // content, such as a link that is stretched over its card.
    const hides = (element, x, y) => {
      const inside = [...element.getClientRects()].some((r) => r.left <= x && x < r.right && r.top <= y && y < r.bottom);
      if (!inside) {
        return ["::before", "::after"].some((name) => {
          const style = getComputedStyle(element, name);
          return style.content !== "none" && covers(style);
        });
      }
      if (!opaque.has(element)) {
        const style = getComputedStyle(element);
        const replaced = /^(img|canvas)$/i.test(element.localName) && Number(style.opacity) > 0.5;
        opaque.set(element, replaced || covers(style));
      }
      return opaque.get(element);
    };
    const above = (element) => element.parentElement || element.getRootNode().host;
    const isClipped = (owner, x, y) => {
      let isFree = false;  // of what clips elements that do not position it
      for (let element = owner; element && element !== document.body; element = above(element)) {
        const style = getComputedStyle(element);
        if (style.clipPath !== "none") return true;
        if (isFree && style.position === "static") continue;
        const box = element.getBoundingClientRect();
        const paints = /paint|strict|content/.test(style.contain);
        if ((paints || style.overflowX !== "visible") && (x < box.left || x >= box.right)) return true;
        if ((paints || style.overflowY !== "visible") && (y < box.top || y >= box.bottom)) return true;
        if (style.position === "fixed") return false;
        isFree = style.position === "absolute";
      }
      return false;
    };
    const isSeen = (owner, x, y) => {
      if (x < 0 || y < 0 || x >= width || y >= height) return false;
      const found = owner.getRootNode().elementsFromPoint(x, y);
      for (const element of found) {
        if (element === owner) return true;
        if (hides(element, x, y)) break;
      }
      if (found.includes(owner) || isClipped(owner, x, y)) return false;
      // Text that overflows its box is not found at its place; only what is positioned can lie above it.
      const follows = Node.DOCUMENT_POSITION_FOLLOWING;
      return !found.some((element) => hides(element, x, y) && getComputedStyle(element).position !== "static"
        && (owner.compareDocumentPosition(element) & follows));
    };

    const boxed = (element) => {
      let owner = element;
      while (owner.parentElement && getComputedStyle(owner).display === "contents") owner = owner.parentElement;
      return owner;
    };
    const blockOf = (element) => {
      let block = element;
      for (;;) {
        const display = getComputedStyle(block).display;
        const next = above(block);
        if (!next || !(display.startsWith("inline") || display === "contents" || display === "ruby")) break;
        block = next;
      }
      if (!numbers.has(block)) {
        numbers.set(block, blocks.length);
        const role = roles.find(([selector]) => block.closest(selector) || element.closest(selector));
        const style = getComputedStyle(block);
        blocks.push({
          role: role ? role[1] : "text",
          spaced: style.whiteSpaceCollapse === "preserve" || style.whiteSpace.startsWith("pre"),
          vertical: style.writingMode.startsWith("vertical"),
        });
      }
      return numbers.get(block);
    };

    const transformed = (text, how, isFirst) => {
      if (how === "uppercase" || (how === "capitalize" && isFirst)) return text.toLocaleUpperCase();
      return how === "lowercase" ? text.toLocaleLowerCase() : text;
    };

    const read = (node, parent) => {
      range.selectNodeContents(node);
      const around = range.getBoundingClientRect();
      if (around.bottom < 0 || around.top >= height || around.right < 0 || around.left >= width) return;
      const style = getComputedStyle(parent);
      if (style.visibility !== "visible") return;
      const owner = boxed(parent);
      if (!owner.checkVisibility({ opacityProperty: true, contentVisibilityAuto: true })) return;
      const block = blockOf(parent);
      const isClear = alpha(style.webkitTextFillColor) === 0 && style.webkitBackgroundClip !== "text";
      const isBlank = !node.data.trim() && !blocks[block].spaced;
      if (isBlank || isClear || style.webkitTextSecurity !== "none") { glyphs.push([block, " "]); return; }
      let isFirst = true;
      for (const { segment, index } of segmenter.segment(node.data)) {
        if (glyphs.length >= most) { complete = false; return; }
        if (!segment.trim()) { glyphs.push([block, segment]); isFirst = true; continue; }
        range.setStart(node, index);
        range.setEnd(node, index + segment.length);
        const box = [...range.getClientRects()].find((r) => r.width > 0 && r.height > 0);
        const text = transformed(segment, style.textTransform, isFirst);
        isFirst = !/[\p{L}\p{N}'’]$/u.test(segment);
        if (!box || box.right <= 0 || box.bottom <= 0 || box.left >= width || box.top >= height) continue;
        const [x, y] = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
        if (y < height ? isSeen(owner, x, y) : true) {
          glyphs.push([block, text, box.left, box.top, box.right, box.bottom]);
        }
      }
    };

    const walk = (node, parent) => {
      if (!complete) return;
      if (node.nodeType === Node.TEXT_NODE) {
        read(node, parent);
        return;
      }
      if (node.nodeType !== Node.ELEMENT_NODE) return;
      if (/^(script|style|template|textarea|select|option|title|iframe|object|video|audio|marquee)$/i.test(node.localName)) return;
      if (node.localName === "br") { glyphs.push([blockOf(parent), "\n"]); return; }
      const inner = node.shadowRoot || node;
      const children = node.localName === "slot" && node.assignedNodes().length ? node.assignedNodes() : inner.childNodes;
      for (const child of children) walk(child, node);
    };
    if (document.body) walk(document.body, document.documentElement);
    return { blocks, glyphs, complete };
  },
})
