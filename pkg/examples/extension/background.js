// The background cannot start workers: the model lives in a page of the extension.
chrome.action.onClicked.addListener(() => chrome.tabs.create({ url: 'page.html' }));
